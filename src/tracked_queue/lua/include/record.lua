-- How scripts read a record: the one place for it; protocol/records.py and FetchedJob are those of Python.
-- read_fields: HMGET of a record; every field false where the key is of another type, so that a foreign key of that name
-- is treated like a record that is missing, and stops nobody.
local function read_fields(job, ...)
  local fields = redis.pcall('HMGET', job, ...)
  if fields.err then
    return {}
  end
  return fields
end
-- queue_of: a record's queue; a record that has lost it counts for the default one.
local function queue_of(stored)
  return stored or 'default'
end
-- size_of_field: bytes of one; 0 for none, and for a foreign key.
local function size_of_field(job, field)
  local size = redis.pcall('HSTRLEN', job, field)
  return type(size) == 'number' and size or 0
end
