"""The version of gradscope, written here once: the build, the command line and provenance read it."""

__version__ = "0.1.0"
