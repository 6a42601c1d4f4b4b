"""How long idle HTTP connections stay open: servers keep them longer than any client does.

Otherwise a request can meet a connection that its server is just closing, and fails though nothing is wrong.
"""

from __future__ import annotations

#: Longer than the clients of this library and than the default of those in use (openai and httpx: 5 s; proxies: 60 s).
SERVER_SECONDS = 75
CLIENT_SECONDS = 30
#: Shorter than the default of the servers whose setting we do not know (uvicorn: 5 s).
SHY_CLIENT_SECONDS = 2
