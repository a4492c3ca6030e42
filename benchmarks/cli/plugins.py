"""The included plug-ins in the output of `bench list`."""

from __future__ import annotations

from ..common.text import plain


def plugin_facts() -> list[dict[str, object]]:
    """Folder, digest and content of each included plug-in."""
    from ..config.plugins import active

    return [
        {"folder": str(plugin.folder), "sha256": plugin.sha256, "provides": sorted(plugin.provides)}
        for plugin in active()
    ]


def print_plugins() -> None:
    """Print the included plug-ins with what they add; nothing without any."""
    from ..config.plugins import active

    for plugin in active():
        print(f"plug-in {plain(str(plugin.folder))}, sources {plugin.sha256[:8]}:")
        print(f"    {', '.join(sorted(plugin.provides))}")
        for name in plugin.extractors:
            print(f"    metrics on the features of {name}: fd_{name}_2k, kd_{name}_2k, precision_{name}_2k, …")
