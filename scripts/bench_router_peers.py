"""The peers of scripts/bench_router: where they come from and how they are started, each in its own defaults."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_router_process import Failed, free_port

PACKAGES = ("sglang-router==0.3.2", "vllm-router==0.1.17", "litellm[proxy]==1.108.7")

NGINX = """daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; keepalive_requests 1000000;
  upstream engines {{ {servers} keepalive 2048; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Peer:
    """A router that is not ours."""

    name: str
    version: str
    command: tuple[str, ...]
    url: str
    health: str

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rsplit(":", 1)[1])


def install(cache: Path) -> Path:
    """The venv of the peers, made once; answers its folder of programs."""
    bin_ = cache / "venv" / "bin"
    marker = cache / "venv" / "installed.json"
    if marker.is_file() and json.loads(marker.read_text()) == list(PACKAGES):
        return bin_
    print("installing the peers, once", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(cache / "venv")], check=True)
    subprocess.run([str(bin_ / "pip"), "install", "--quiet", *PACKAGES], check=True)
    marker.write_text(json.dumps(PACKAGES))
    return bin_


def find_nginx(cache: Path) -> Path:
    """The system's nginx, or Debian's package unpacked into the cache."""
    unpacked = cache / "nginx" / "usr" / "sbin" / "nginx"
    for path in (Path("/usr/sbin/nginx"), unpacked):
        if path.is_file():
            return path
    folder = cache / "nginx"
    folder.mkdir(parents=True, exist_ok=True)
    fetched = subprocess.run(["apt-get", "download", "nginx"], cwd=folder, capture_output=True, text=True, check=False)
    packages = sorted(folder.glob("nginx_*.deb"))
    if not packages:
        raise Failed(f"no nginx: install it, or leave it out with --only; apt-get said: {fetched.stderr.strip()}")
    subprocess.run(["dpkg-deb", "-x", str(packages[-1]), str(folder)], check=True)
    return unpacked


def peer_of(name: str, cache: Path, folder: Path, engines: Sequence[str]) -> Peer:
    """One peer in front of the engines."""
    port, spare = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    if name == "nginx":
        servers = " ".join(f"server {engine.removeprefix('http://')};" for engine in engines)
        config = folder / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, servers=servers, port=port))
        program = find_nginx(cache)
        shown = subprocess.run([str(program), "-v"], capture_output=True, text=True, check=True).stderr
        command: tuple[str, ...] = (str(program), "-c", str(config), "-p", str(folder))
        return Peer(name, shown.strip().rsplit("/", 1)[1], command, url, f"{url}/health")
    bin_ = install(cache)
    version = next(item.split("==")[1] for item in PACKAGES if item.split("==")[0].split("[")[0] == name)
    common = ("--host", "127.0.0.1", "--port", str(port))
    if name == "litellm":
        config = folder / "litellm.json"
        models = [
            {"model_name": "m", "litellm_params": {"model": "openai/m", "api_base": f"{engine}/v1", "api_key": "none"}}
            for engine in engines
        ]
        # Without accounts, so that it needs no database: less work than it does in earnest.
        general = {"dangerously_permit_weak_or_unset_master_key": True}
        config.write_text(json.dumps({"model_list": models, "general_settings": general}))
        command = (str(bin_ / "litellm"), "--config", str(config), "--num_workers", "1", *common)
        return Peer(name, version, command, url, f"{url}/health/liveliness")
    launch = ("launch",) if name == "sglang-router" else ()
    level = "warn" if name == "sglang-router" else "warning"
    # vllm-router's cache_aware asks the node to render each prompt first, which this engine does not do.
    policy = "cache_aware" if name == "sglang-router" else "round_robin"
    command = (str(bin_ / name), *launch, *common, "--worker-urls", *engines, "--policy", policy)
    command += ("--log-level", level, "--prometheus-port", str(spare))
    return Peer(name, version, command, url, f"{url}/health")
