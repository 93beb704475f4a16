"""The composition root: settings become objects, objects a running gateway."""
