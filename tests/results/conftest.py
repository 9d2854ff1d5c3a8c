from tests.tiny.fixtures import _tiny_parts, config  # noqa: F401 - fixtures
