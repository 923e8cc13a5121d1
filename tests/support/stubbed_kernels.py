"""Stands in for a module of Triton kernels: what its kernels do when they are compiled."""

import os


class Works:
    """A kernel that compiles at once."""

    @staticmethod
    def preload(specialization: str) -> None:
        """Compiles nothing."""


class Aborts:
    """A kernel on which the compiler ends its process, as LLVM does where it fails an assertion."""

    @staticmethod
    def preload(specialization: str) -> None:
        """Ends the process."""
        os._exit(134)
