"""The command line and the app. Installed as `compose_app`."""
