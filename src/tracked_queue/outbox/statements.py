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
    format smallint NOT NULL,
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
    format smallint NOT NULL,
    created_at timestamp(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    problem text
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
""",
    "sqlite": f"""\
CREATE TABLE IF NOT EXISTS {TABLE} (
    id integer PRIMARY KEY AUTOINCREMENT,
    job_id varchar(256) NOT NULL,
    namespace varchar(256) NOT NULL,
    payload blob NOT NULL,
    format smallint NOT NULL,
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    problem text
);
""",
}
# Of the rows that are to be passed on.
_OPEN = "min(CASE WHEN problem IS NULL THEN created_at END)"
# In s, by the database's own clock.
_AGE = {
    "postgresql": "extract(epoch from now() - <since>)",
    "mysql": "timestampdiff(microsecond, <since>, current_timestamp(6)) / 1000000",
    "sqlite": "(julianday('now') - julianday(<since>)) * 86400",
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
    def isolation(self) -> str:
        """
        Said first in a transaction; '' for nothing. Else MySQL locks the gaps between rows, too, so that inserts wait for
        Redis; and a PostgreSQL with another default fails relays that are at work at the same time.
        """
        return "SET TRANSACTION ISOLATION LEVEL READ COMMITTED" if self.locks else ""

    def _same(self, name: str) -> str:
        """A comparison of texts in which `a` is not `A`, whatever the table's collation is."""
        return f"BINARY {name} = BINARY <{name}>" if self.dialect == "mysql" else f"{name} = <{name}>"

    def _age(self, since: str) -> str:
        return _AGE[self.dialect].replace("<since>", since)

    @property
    def insert(self) -> str:
        """job_id, namespace, payload, format."""
        names = ("job_id", "namespace", "payload", "format")
        sql = f"INSERT INTO {TABLE} ({', '.join(names)}) VALUES ({', '.join(f'<{name}>' for name in names)})"
        return self._marked(sql, *names)

    @property
    def claim(self) -> str:
        """namespace, after, format, most -> id, payload, age in s. No row is waited for that another relay has."""
        lock = " FOR UPDATE SKIP LOCKED" if self.locks else ""
        which = f"{self._same('namespace')} AND id > <after> AND format <= <format> AND problem IS NULL"
        columns = f"id, payload, {self._age('created_at')} AS age_s"
        sql = f"SELECT {columns} FROM {TABLE} WHERE {which} ORDER BY id LIMIT <most>{lock}"
        return self._marked(sql, "namespace", "after", "format", "most")

    @property
    def waits(self) -> str:
        """namespace, job_id -> a row if a job of this id is still to be passed on, also one that another relay has."""
        which = f"{self._same('namespace')} AND {self._same('job_id')} AND problem IS NULL"
        return self._marked(f"SELECT id FROM {TABLE} WHERE {which} LIMIT 1", "namespace", "job_id")

    def delete(self, ids: list[int]) -> str:
        """No parameters: the ids are numbers of ours."""
        return f"DELETE FROM {TABLE} WHERE id IN ({', '.join(str(int(id)) for id in ids)})"

    @property
    def refuse(self) -> str:
        """problem, id."""
        return self._marked(f"UPDATE {TABLE} SET problem = <problem> WHERE id = <id>", "problem", "id")

    @property
    def retry(self) -> str:
        """namespace. Only refused rows: a relay may have the others."""
        which = f"{self._same('namespace')} AND problem IS NOT NULL"
        return self._marked(f"UPDATE {TABLE} SET problem = NULL WHERE {which}", "namespace")

    @property
    def status(self) -> str:
        """namespace -> open rows, age of the oldest in s, rows with a problem."""
        sql = (
            "SELECT sum(CASE WHEN problem IS NULL THEN 1 ELSE 0 END) AS waiting, "
            f"{self._age(_OPEN)} AS oldest_s, sum(CASE WHEN problem IS NULL THEN 0 ELSE 1 END) AS refused "
            f"FROM {TABLE} WHERE {self._same('namespace')}"
        )
        return self._marked(sql, "namespace")
