"""llava-pack: one verified bundle that carries LLaVA across an air gap."""

__version__ = "0.1.0"
