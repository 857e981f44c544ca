"""Commands of the laptop: plan, lock, build, sign."""
