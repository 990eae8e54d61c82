"""The web page of a run and its JSON API: ``capgpu serve``.

Needs the packages of the extra ``serve``; nothing else of the library imports this package.
"""
