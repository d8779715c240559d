"""The service on Ray Serve: `serve run deploy.ray_serve:app`, from the repository's root.

The same application and batcher in each replica; Ray hands out requests, replaces and adds replicas.
Settings are the service's environment variables, but for the address, which is Ray's proxy's.
"""

import os
from dataclasses import replace

from fastapi import FastAPI
from ray import serve

from service.app import create_app
from service.observing.log import configure
from service.settings import Settings


def nametag() -> FastAPI:
    """Called in each replica, which is one process: others would be Ray's."""
    settings = replace(Settings.from_env(os.environ), workers=1, offload_bytes=0)
    configure(settings.log_level)
    return create_app(settings)


@serve.deployment(
    # As many as the service lets in, so that what is too much is its 429 and not a queue of Ray's.
    max_ongoing_requests=Settings.max_queue_requests + 1,
    graceful_shutdown_timeout_s=Settings.grace_s,
    ray_actor_options={"num_cpus": 1},
    autoscaling_config={"min_replicas": 1, "max_replicas": 8, "target_ongoing_requests": 8},
)
@serve.ingress(nametag)
class Nametag:
    def check_health(self) -> None:
        """Raises Problem where an inference thread is wedged: Ray then replaces the replica."""
        self.app.state.service.check_live()


app = Nametag.bind()
