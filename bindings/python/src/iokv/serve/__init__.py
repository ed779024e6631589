# SPDX-License-Identifier: Apache-2.0
"""iokv-serve: the OpenAI-compatible HTTP face of a running iokvd. A client of the daemon like any other.

    api     what requests may say, and errors in OpenAI's form
    engine  text in, pieces of text out, over one AsyncClient
    answers what is sent back: whole bodies and server-sent events
    app     the routes
    main    the command line
"""
