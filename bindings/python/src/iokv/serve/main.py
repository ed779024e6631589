# SPDX-License-Identifier: Apache-2.0
"""iokv-serve: OpenAI's API in front of a running iokvd, on a Unix socket or on a loopback address."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="iokv-serve", description="OpenAI-compatible completions and chat over the model of a running iokvd."
    )
    parser.add_argument("--socket", help="the daemon's socket (default: where libiokv looks)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--uds", metavar="PATH", help="serve on this Unix socket")
    where.add_argument("--host", default="127.0.0.1", help="serve on this loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=1, help="processes, each a client of the daemon (default: 1)")
    parser.add_argument("--model", metavar="ID", help="the id by which requests name the model (default: its own name)")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for the daemon's model")
    arguments = parser.parse_args(argv)
    if arguments.workers < 1:
        parser.error("--workers must be 1 at least")
    if not 0 <= arguments.port < 65536:
        parser.error("--port must be 0 to 65535")
    if arguments.host != "localhost":
        try:
            loopback = ipaddress.ip_address(arguments.host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            parser.error(
                f"--host {arguments.host} is no loopback address: whoever reaches it could use the model. Put a server that "
                "knows its users in front (a reverse proxy to --uds or 127.0.0.1)"
            )
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as missing:
        print(f"iokv-serve needs the package {missing.name}: pip install 'iokv[serve]'", file=sys.stderr)
        return 1
    if arguments.socket:
        os.environ["IOKV_SERVE_SOCKET"] = arguments.socket
    if arguments.model:
        os.environ["IOKV_SERVE_MODEL"] = arguments.model
    os.environ["IOKV_SERVE_TIMEOUT"] = str(arguments.timeout)
    uvicorn.run(
        "iokv.serve.app:create",
        factory=True,
        uds=arguments.uds,
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        access_log=False,
        log_level="warning" if arguments.workers > 1 else "info",
        timeout_graceful_shutdown=5,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
