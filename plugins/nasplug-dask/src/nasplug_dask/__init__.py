"""Dask's workers score archs: ``workers="dask:tcp://scheduler:8786"``."""

from nasplug import hookimpl


@hookimpl
def register_executors(register):
    register("dask", "nasplug_dask.executor:connect", "the workers of a Dask cluster")
