from .pipeline_726f35d1 import OneDiffusionPipeline  # for custom_pipeline=FOLDER
