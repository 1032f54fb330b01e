from .pipeline_ef091d92 import OneDiffusionPipeline  # for custom_pipeline=FOLDER
