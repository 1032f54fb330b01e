from .pipeline_eb8f0962 import OneDiffusionPipeline  # for custom_pipeline=FOLDER
