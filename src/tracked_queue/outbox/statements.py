"""The outbox's table and what is said to it, for each kind of database."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError

TABLE = "tracked_queue_outbox"

_DDL = {
    "postgresql": f"""\
CREATE TABLE IF NOT EXISTS {TABLE} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id varchar(256) NOT NULL,
    namespace varchar(256) NOT NULL,
    payload bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    problem text
);
""",
    "mysql": f"""\
CREATE TABLE IF NOT EXISTS {TABLE} (
    id bigint AUTO_INCREMENT PRIMARY KEY,
    job_id varchar(256) NOT NULL,
    namespace varchar(256) NOT NULL,
    payload longblob NOT NULL,
    created_at timestamp(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    problem text
);
""",
    "sqlite": f"""\
CREATE TABLE IF NOT EXISTS {TABLE} (
    id integer PRIMARY KEY AUTOINCREMENT,
    job_id varchar(256) NOT NULL,
    namespace varchar(256) NOT NULL,
    payload blob NOT NULL,
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    problem text
);
""",
}
_AGE = {
    "postgresql": "extract(epoch from now() - min(created_at))",
    "mysql": "timestampdiff(microsecond, min(created_at), current_timestamp(6)) / 1000000",
    "sqlite": "(julianday('now') - julianday(min(created_at))) * 86400",
}
DIALECTS = tuple(_DDL)


def dialect_of(name: str) -> str:
    """Our name of a kind of database. Raises UsageError."""
    found = {"mariadb": "mysql", "postgres": "postgresql"}.get(name, name)
    if found not in DIALECTS:
        raise UsageError(f"outbox: {name!r} is not a kind of database that it knows: {', '.join(DIALECTS)}, mariadb")
    return found


def ddl(dialect: str) -> str:
    """
    The SQL that makes the outbox's table, for your migrations; run again it changes nothing.

    Args:
        dialect: postgresql, mysql, mariadb or sqlite.
    """
    return _DDL[dialect_of(dialect)]


@dataclass(frozen=True, slots=True)
class Statements:
    """
    What is said to one kind of database.

    Args:
        dialect: One of DIALECTS.
        marks: How parameters are written: `:name`, `%s`, `?` or `$1`.
    """

    dialect: str
    marks: str

    @property
    def locks(self) -> bool:
        """Whether rows are locked while they are passed on. SQLite would lock the whole database."""
        return self.dialect != "sqlite"

    def _marked(self, sql: str, *names: str) -> str:
        for at, name in enumerate(names, 1):
            mark = {":name": f":{name}", "$1": f"${at}"}.get(self.marks, self.marks)
            sql = sql.replace(f"<{name}>", mark)
        return sql

    @property
    def insert(self) -> str:
        """job_id, namespace, payload."""
        sql = f"INSERT INTO {TABLE} (job_id, namespace, payload) VALUES (<job_id>, <namespace>, <payload>)"
        return self._marked(sql, "job_id", "namespace", "payload")

    @property
    def claim(self) -> str:
        """namespace, limit -> id, payload. No row is waited for that another relay has; late commits are never skipped."""
        lock = " FOR UPDATE SKIP LOCKED" if self.locks else ""
        which = "namespace = <namespace> AND problem IS NULL"
        sql = f"SELECT id, payload FROM {TABLE} WHERE {which} ORDER BY id LIMIT <most>{lock}"
        return self._marked(sql, "namespace", "most")

    def delete(self, ids: list[int]) -> str:
        """No parameters: the ids are numbers of ours."""
        return f"DELETE FROM {TABLE} WHERE id IN ({', '.join(str(int(id)) for id in ids)})"

    @property
    def refuse(self) -> str:
        """problem, id."""
        return self._marked(f"UPDATE {TABLE} SET problem = <problem> WHERE id = <id>", "problem", "id")

    @property
    def retry(self) -> str:
        """namespace."""
        return self._marked(f"UPDATE {TABLE} SET problem = NULL WHERE namespace = <namespace>", "namespace")

    @property
    def status(self) -> str:
        """namespace -> open rows, age of the oldest in s, rows with a problem."""
        sql = (
            f"SELECT (SELECT count(*) FROM {TABLE} WHERE namespace = <namespace> AND problem IS NULL), "
            f"(SELECT {_AGE[self.dialect]} FROM {TABLE} WHERE namespace = <own> AND problem IS NULL), "
            f"(SELECT count(*) FROM {TABLE} WHERE namespace = <same> AND problem IS NOT NULL)"
        )
        return self._marked(sql, "namespace", "own", "same")
