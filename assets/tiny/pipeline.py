from .pipeline_58d4f431 import OneDiffusionPipeline  # for custom_pipeline=FOLDER
