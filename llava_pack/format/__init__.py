"""The bundle format and its rules: pure, stdlib only, shared by both sides of the gap."""
