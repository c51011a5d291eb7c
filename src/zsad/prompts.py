"""Prompts for each product, written once by a language model into a file that `grounding` takes."""

from zsad.methods.prompts.written import write_prompts

__all__ = ["write_prompts"]
