"""Instance labels from predicted foreground and flow, out of core and exact."""
