from .pipeline_ae792800 import OneDiffusionPipeline  # for custom_pipeline=FOLDER
