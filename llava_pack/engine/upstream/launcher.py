"""Where the `serve` of an earlier llava-pack looks for the launcher of this generation."""

import runpy

if __name__ == "__main__":
    runpy.run_module("llava_pack.llava_serve.launcher", run_name="__main__", alter_sys=True)
