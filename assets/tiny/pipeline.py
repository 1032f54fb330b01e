from .pipeline_f2c3bba8 import OneDiffusionPipeline  # for custom_pipeline=FOLDER
