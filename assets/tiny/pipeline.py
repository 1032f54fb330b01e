from .pipeline_8b1c643b import OneDiffusionPipeline  # for custom_pipeline=FOLDER
