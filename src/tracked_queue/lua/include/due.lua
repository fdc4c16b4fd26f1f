-- comes_first: whether a due time is before all that are scheduled; asked before it is added, and by few jobs only.
local function comes_first(due_ms)
  local head = redis.call('ZRANGE', single('scheduled'), 0, 0, 'WITHSCORES')
  return not head[2] or due_ms < tonumber(head[2])
end
