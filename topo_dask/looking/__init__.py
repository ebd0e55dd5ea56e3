"""Looking at volumes: figures, and a viewer in the browser."""
