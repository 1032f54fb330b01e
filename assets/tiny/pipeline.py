from .pipeline_22b8ca60 import OneDiffusionPipeline  # for custom_pipeline=FOLDER
