"""Who may ask: keys, scopes, quotas, the audit log."""
