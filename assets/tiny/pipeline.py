from .pipeline_683e998c import OneDiffusionPipeline  # for custom_pipeline=FOLDER
