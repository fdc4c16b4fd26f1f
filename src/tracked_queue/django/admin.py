"""Jobs in Django's admin: lists by state, one job, requeue and cancel, each act noted in Django's log and in ours."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlencode

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import unquote
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html

from ..errors import JobNotFoundError, TrackedQueueError, UnreadableJobError, UsageError
from ..model.record import JobInfo
from ..operator.operator import Operator
from ..protocol.transitions import CancelWord, DeadWord
from ..reports.listing import LISTED_STATES
from . import sites
from .bands import name_of
from .models import Job
from .told import as_django

T = TypeVar("T")

PAGE = 50
# Jobs that one act takes at most: a page of them.
MOST = PAGE


class Place:
    """Which backend a request is about, and its jobs."""

    def __init__(self, request: HttpRequest) -> None:
        self.aliases = sites.aliases()
        chosen = request.GET.get("backend") or (self.aliases[0] if self.aliases else "")
        if chosen not in self.aliases:
            raise Http404(f"TASKS has no backend {chosen!r} of tracked_queue")
        self.site, self.alias = sites.site(chosen), chosen
        self._who = f"{request.user.get_username()} (admin)"

    def ask(self, work: Callable[[Operator], Coroutine[Any, Any, T]]) -> T:
        """Do something with the queue, in the name of the user."""
        app = self.site.app

        async def asked() -> T:
            try:
                return await work(app.operator.acting_for(self._who))
            finally:
                await app.aclose()  # of this call's event loop

        found: T = async_to_sync(asked)()
        return found


@admin.register(Job)
class JobAdmin(admin.ModelAdmin):
    """The pages of jobs."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Jobs are enqueued by programs."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Dead jobs are purged on the command line or in the dashboard."""
        return False

    def get_urls(self) -> list[Any]:
        """Our own views under Django's names, so that the admin's index leads to them."""
        view = self.admin_site.admin_view
        return [
            path("", view(self.listed), name="tracked_queue_job_changelist"),
            path("act/", view(self.act), name="tracked_queue_job_act"),
            path("<path:id>/change/", view(self.shown), name="tracked_queue_job_change"),
        ]

    # Reading

    def listed(self, request: HttpRequest) -> HttpResponse:
        """Jobs of a state."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        place = Place(request)
        given = {name: request.GET.get(name, "").strip() for name in ("state", "queue", "task", "error", "id")}
        if given["id"] and not given["id"].isprintable():
            messages.error(request, "An id has printable characters only.")
        elif given["id"]:
            return HttpResponseRedirect(self._address(given["id"], place.alias))
        state = given["state"] or "dead"
        context: dict[str, Any] = {"state": state, "states": LISTED_STATES, "given": given, "rows": [], "next": ""}
        try:
            page = place.ask(
                lambda operator: operator.jobs(
                    state,  # type: ignore[arg-type]
                    queue=given["queue"] or None,
                    task=given["task"] or None,
                    error=given["error"] or None,
                    limit=PAGE,
                    start=request.GET.get("start") or None,
                )
            )
        except TrackedQueueError as error:
            messages.error(request, str(error))
        else:
            context["rows"] = [(row, row.queue, self._address(row.id, place.alias)) for row in page.rows]
            if page.next is not None:
                kept = {name: value for name, value in given.items() if value}
                context["next"] = "?" + urlencode({**kept, "backend": place.alias, "state": state, "start": page.next})
        return self._page(request, "listed", "Jobs", place, context)

    def shown(self, request: HttpRequest, id: str) -> HttpResponse:
        """One job."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        place = Place(request)
        try:
            info = _found(place, id)
        except (JobNotFoundError, UnreadableJobError, UsageError) as error:
            messages.error(request, f"{error} Ended jobs are kept for a while only.")
            return HttpResponseRedirect(self._list_address(place.alias))
        except TrackedQueueError as error:
            messages.error(request, str(error))
            return HttpResponseRedirect(self._list_address(place.alias))
        sees = request.user.has_perm("tracked_queue.view_arguments")
        times = {name: as_django(getattr(info, name)) for name in _TIMES}
        dashboard = place.site.dashboard_url.rstrip("/")
        context = {
            "job": info, "queue": name_of(info.queue), "times": times, "sees_arguments": sees,
            "can_requeue": info.state == "dead", "can_cancel": not info.state.ended,
            "dashboard": f"{dashboard}/job?{urlencode({'id': info.id})}" if dashboard else "",
        }  # fmt: skip
        return self._page(request, "shown", f"Job {info.id}", place, context)

    # Acting

    def act(self, request: HttpRequest) -> HttpResponse:
        """Requeue dead jobs or cancel others, by their ids."""
        if request.method != "POST" or not self.has_change_permission(request):
            raise PermissionDenied
        place, ids, action = Place(request), request.POST.getlist("id"), request.POST.get("action")
        back = HttpResponseRedirect(self._list_address(place.alias, request.POST.get("state", "")))
        if not ids or len(ids) > MOST:
            messages.warning(request, f"Choose some jobs, at most {MOST} at a time.")
            return back
        try:
            if action == "requeue":
                done, refused = self._requeue(place, ids)
            elif action == "cancel":
                done, refused = self._cancel(place, ids)
            else:
                messages.error(request, "Choose what to do with them.")
                return back
        except TrackedQueueError as error:
            messages.error(request, str(error))
            return back
        kind = ContentType.objects.get_for_model(Job)
        for id in done:
            LogEntry.objects.create(
                user_id=request.user.pk, content_type_id=kind.pk, object_id=id, object_repr=id[:200], action_flag=CHANGE,
                change_message=f"{action} ({place.alias})",
            )  # fmt: skip
        if done:
            messages.success(request, f"{_WORDS[action]}: {len(done)} of {len(ids)}.")
        for id, why in refused.items():
            messages.warning(request, f"{id}: {why}")
        return back

    def _requeue(self, place: Place, ids: list[str]) -> tuple[list[str], dict[str, str]]:
        outcome = place.ask(lambda operator: operator.requeue(ids))
        refused = {id: _NOT_REQUEUED.get(word, str(word)) for id, word in outcome.refused.items()}
        return [id for id in ids if id not in refused], refused

    def _cancel(self, place: Place, ids: list[str]) -> tuple[list[str], dict[str, str]]:
        words = place.ask(lambda operator: operator.cancel(ids))
        done = [id for id, word in words.items() if word in (CancelWord.CANCELLED, CancelWord.REQUESTED)]
        return done, {id: "it had ended, or is not there" for id in ids if id not in done}

    # Pages

    def _page(self, request: HttpRequest, name: str, title: str, place: Place, context: dict[str, Any]) -> HttpResponse:
        own = {
            **self.admin_site.each_context(request), "title": title, "opts": self.model._meta, "alias": place.alias,
            "aliases": place.aliases, "can_change": self.has_change_permission(request), "use_tz": settings.USE_TZ,
            "list_address": self._list_address(place.alias), "act_address": self._act_address(place.alias),
        }  # fmt: skip
        return TemplateResponse(request, f"admin/tracked_queue/job/{name}.html", {**own, **context})

    def _address(self, id: str, alias: str) -> str:
        return (
            reverse("admin:tracked_queue_job_change", args=[id], current_app=self.admin_site.name)
            + "?"
            + urlencode({"backend": alias})
        )

    def _list_address(self, alias: str, state: str = "") -> str:
        given = {"backend": alias, **({"state": state} if state in LISTED_STATES else {})}
        return reverse("admin:tracked_queue_job_changelist", current_app=self.admin_site.name) + "?" + urlencode(given)

    def _act_address(self, alias: str) -> str:
        return (
            reverse("admin:tracked_queue_job_act", current_app=self.admin_site.name)
            + "?"
            + urlencode({"backend": alias})
        )


_TIMES = ("queued_at", "due_at", "fetched_at", "started_at", "finished_at")
_WORDS = {"requeue": "Queued again", "cancel": "Cancelled, or asked to end"}
_NOT_REQUEUED = {
    DeadWord.NOT_DEAD: "it is not dead",
    DeadWord.HELD: "another job holds its unique key",
    DeadWord.UNUSABLE: "its record can't be used",
    DeadWord.GONE: "it is not there any more",
}


def _found(place: Place, id: str) -> JobInfo:
    """The job; Django's own links to it have its id quoted, and don't name the backend."""
    places = [place.site, *(sites.site(alias) for alias in place.aliases if alias != place.alias)]
    for site in places:
        for name in dict.fromkeys((id, unquote(id))):
            try:
                info = site.app.job(name).info_sync()
            except JobNotFoundError:
                continue
            place.site, place.alias = site, site.alias
            return info
    raise JobNotFoundError(id)


def link_to_job(id: str, alias: str = "default") -> str:
    """A link to a job's page, for the `readonly_fields` of a model that keeps the id of a TaskResult."""
    address = reverse("admin:tracked_queue_job_change", args=[id]) + "?" + urlencode({"backend": alias})
    return format_html('<a href="{}">{}</a>', address, id)
