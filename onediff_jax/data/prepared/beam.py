"""A preparation on a cluster: the same parts, written by Apache Beam's workers.

Every worker must see the source and the output folder under the same names (a shared file system).
Beam is not among the requirements: pip install apache-beam.
"""

from collections.abc import Sequence
from pathlib import Path

from onediff_jax.data.prepared.manifest import parts_left
from onediff_jax.data.prepared.parts import part_name
from onediff_jax.data.prepared.plan import Plan
from onediff_jax.data.prepared.writer import plan_hash, write_part


def run(
    plan: Plan,
    folder: Path,
    runner: str,
    options: Sequence[str] = (),
    left: Sequence[int] | None = None,
) -> None:
    """Writes every part that is not done yet, or those that are `left`, each as one element of a
    Beam pipeline.

    Args:
      runner: "DirectRunner", "DataflowRunner", "FlinkRunner", "SparkRunner", ….
      options: Beam's own flags, e.g. "--project=…".

    Raises ValueError when Beam is not installed; what the runner raises.
    """
    try:
        import apache_beam as beam
        from apache_beam.metrics.metric import Metrics
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ValueError(f"{runner=} needs Apache Beam: pip install apache-beam") from error

    class WritePart(beam.DoFn):
        """One encoder per worker, then any number of parts."""

        def setup(self):
            self._encoders = plan.make_encoders()

        def process(self, job):
            shard, name = job
            part = write_part(plan, self._encoders, shard, name, folder)
            Metrics.counter("prepare", "good").inc(part["report"]["good"])
            Metrics.counter("prepare", "bad").inc(len(part["report"]["bad"]))
            yield name

    shards = plan.source.shards()
    if left is None:
        left = parts_left(folder, shards, plan.source, plan_hash(folder))
    jobs = [(shards[n], part_name(n, len(shards))) for n in left]
    with beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *options])) as pipeline:
        _ = (
            pipeline
            | "parts" >> beam.Create(jobs)
            | "spread" >> beam.Reshuffle()
            | "write" >> beam.ParDo(WritePart())
        )
