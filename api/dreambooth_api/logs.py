"""structlog, set up once per process: JSON lines in a pod, colours on a terminal."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog

from dreambooth_api.names import ENV_LOG_FORMAT


def configure(**bound: Any) -> None:
    """`DREAMBOOTH_LOG_FORMAT` (json, console) overrides the choice by terminal; `bound` is on every line."""
    chosen = os.environ.get(ENV_LOG_FORMAT) or ("console" if sys.stderr.isatty() else "json")
    renderer: Any = structlog.dev.ConsoleRenderer() if chosen == "console" else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(**bound)
