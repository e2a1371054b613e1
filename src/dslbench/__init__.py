"""dslbench: compare ways of making recommenders small and cheap, and what each one really costs."""

__version__ = "0.1.0"
