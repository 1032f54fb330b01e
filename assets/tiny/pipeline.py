from .pipeline_6bbd80e2 import OneDiffusionPipeline  # for custom_pipeline=FOLDER
