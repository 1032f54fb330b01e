from .pipeline_08981ef3 import OneDiffusionPipeline  # for custom_pipeline=FOLDER
