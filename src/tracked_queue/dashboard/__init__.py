"""
The dashboard: `dashboard(app)` is an ASGI application; `tracked-queue dashboard` serves one on its own.

Source: docs/how-to/dashboard.md.
"""

try:
    import jinja2 as _jinja2
    import starlette as _starlette
except ModuleNotFoundError as error:
    if error.name not in ("jinja2", "starlette"):
        raise
    raise ModuleNotFoundError(
        f"the dashboard needs {error.name}: pip install 'tracked-queue[dashboard]'", name=error.name
    ) from None

from .access import Action, Identity, Rights, Role, Wish
from .app import Dashboard, dashboard
from .logins import ProxyHeader, Users

del _jinja2, _starlette

__all__ = ["Action", "Dashboard", "Identity", "ProxyHeader", "Rights", "Role", "Users", "Wish", "dashboard"]
