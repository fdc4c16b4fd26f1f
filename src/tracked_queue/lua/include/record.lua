-- read_fields: HMGET of a record; every field false where the key is of another type, so that a foreign key of that name
-- is treated like a record that is missing, and stops nobody.
local function read_fields(job, ...)
  local fields = redis.pcall('HMGET', job, ...)
  if fields.err then
    return {}
  end
  return fields
end
