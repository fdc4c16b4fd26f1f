-- The one place where scripts read a record; in Python that is protocol/records.py, with FetchedJob.
-- read_fields: HMGET of a record.  If the key is of another type no field has a value, so that a foreign key of that name is
-- treated like a missing record, and stops no other job.
local function read_fields(job, ...)
  local fields = redis.pcall('HMGET', job, ...)
  if fields.err then
    return {}
  end
  return fields
end
-- queue_of: a record's queue; a record that has lost this field belongs to the default queue.
local function queue_of(stored)
  return stored or 'default'
end
-- size_of_field: a field's size in bytes; 0 if it is missing, or if the key is a foreign one.
local function size_of_field(job, field)
  local size = redis.pcall('HSTRLEN', job, field)
  return type(size) == 'number' and size or 0
end
