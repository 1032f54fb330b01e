"""A page to play with a trained model: pick a task, drop pictures, look at what comes.

    python -m onediff_jax.demo --source=WORKDIR|FOLDER [--port=7860]

It needs the extra `demo` (pip install "onediff-jax[demo]"). The page is served on this machine
alone unless --host says otherwise. It shows the newest checkpoint of a run that is going on.
docs/demo.md says what it can do, and what visitors may ask.
"""

import os
import signal
import socket
import sys
import threading

from absl import app, flags, logging

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Not at import, so that the functions here can be imported beside other commands."""
    flags.DEFINE_string("source", None, "Workdir of a run, or an exported folder.")
    flags.DEFINE_boolean("ema", True, "Averaged weights (a run has both; an export holds one).")
    flags.DEFINE_string("host", "127.0.0.1", "Address to serve on; 0.0.0.0 lets others in.")
    flags.DEFINE_integer("port", 7860, "Port to serve on.", 1, 65535)
    flags.DEFINE_boolean("share", False, "A public address, through the servers of Gradio.")
    flags.DEFINE_float("max_seconds", 300.0, "Of one generation.", 1.0)
    flags.DEFINE_integer("max_side", 1536, "Of a generated picture, pixels.", 16)
    flags.DEFINE_integer("max_upload_mb", 32, "Of an uploaded file.", 1)
    flags.DEFINE_integer("max_waiting", 32, "Visitors in the queue.", 1)


def main(argv: list[str]) -> None:
    """Serves until it is stopped; bad input ends with one message and exit code 1."""
    logging.set_verbosity(logging.WARNING)
    try:
        if argv[1:]:
            raise ValueError(f"unexpected arguments {argv[1:]}; every option is --name=value")
        if not FLAGS.source:
            raise ValueError("--source is required")
        check_port(FLAGS.host, FLAGS.port)
        serve()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def check_port(host: str, port: int) -> None:
    """Raises ValueError where the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"--host={host} --port={port} cannot be served on ({error.strerror}): another "
                "program may use it; choose another --port"
            ) from None


def serve() -> None:
    """Loads the source, shows the page, and waits for SIGINT or SIGTERM."""
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise ValueError('the page needs Gradio: pip install "onediff-jax[demo]"') from None
    from onediff_jax.page.studio import Limits, Studio

    upload = FLAGS.max_upload_mb * 2**20
    limits = Limits(upload=upload, seconds=FLAGS.max_seconds, side=FLAGS.max_side)
    studio = Studio(FLAGS.source, ema=FLAGS.ema, limits=limits)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        page = launch(studio, FLAGS.host, FLAGS.port, share=FLAGS.share, waiting=FLAGS.max_waiting)
        print(f"{studio.path}: http://{FLAGS.host}:{FLAGS.port}", flush=True)
        stopped.wait()
        page.close()
    finally:
        studio.close()


def launch(studio, host: str, port: int, *, share: bool = False, waiting: int = 32):
    """Starts to serve the page of a studio; returns what can be closed."""
    # Before Gradio is imported: what is uploaded lies in the studio's folder, and goes with it.
    os.environ["GRADIO_TEMP_DIR"] = str(studio.folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from gradio.themes import Default

    from onediff_jax.page.layout import CSS, Page

    page = Page(studio).blocks
    page.queue(max_size=waiting, api_open=False)
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        max_file_size=studio.limits.upload,
        enable_monitoring=False,
        footer_links=["settings"],
        ssr_mode=False,
        theme=Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=CSS,
    )
    return page


if __name__ == "__main__":
    from onediff_jax import exits

    with exits.foreseen():
        define_flags()
        app.run(main)
