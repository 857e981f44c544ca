"""The step list of build."""
