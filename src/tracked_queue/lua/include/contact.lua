-- read_hold: looks at when any instance last beat.  If that is more than two intervals ago (Redis was away, or all workers
-- were), or in the future (a failover to another clock), no instance may be called dead for one TTL.  Returns the end of that
-- hold, or nil; then whether the clock went back by more than a TTL.  note_contact writes the hold and the time of this call.
local function read_hold(now, ttl_ms, interval_ms)
  local contact = tonumber(redis.call('GET', single('contact')) or nil)
  if contact then
    if now - contact > 2 * interval_ms or contact - now > ttl_ms then
      return now + ttl_ms, contact - now > ttl_ms
    end
  elseif redis.call('EXISTS', single('instances')) == 1 then
    return now + ttl_ms
  end
  return nil
end
local function note_contact(now, hold)
  if hold then
    redis.call('SET', single('hold'), hold)
  end
  redis.call('SET', single('contact'), now)
end
