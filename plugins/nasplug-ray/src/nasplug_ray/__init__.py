"""Ray's workers score archs: ``workers="ray"`` or ``"ray:ADDRESS"``."""

from nasplug import hookimpl


@hookimpl
def register_executors(register):
    register("ray", "nasplug_ray.executor:RayExecutor", "Ray, on this machine or at an address")
