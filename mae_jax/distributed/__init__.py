"""Device meshes, start-up of several processes, and the hardware table."""
