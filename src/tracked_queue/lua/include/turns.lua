-- turns: how a fetch goes through a queue: its list from the right end, its lanes in turns.  It calls fetch's `look`, and fills
-- fetch's `visited` and `groups`.
-- take_list: how many ids leave the list with this call, and whether some stay.
local function take_list(queue, list, room)
  local cut, before, portion = 0, taken, room
  while taken - before < room do
    local heads = redis.call('LRANGE', list, -cut - portion, -cut - 1)
    for i = #heads, 1, -1 do
      if not look(heads[i], queue, true, room - (taken - before)) then
        return cut, true
      end
      cut = cut + 1
    end
    -- What was read usually shows whether that was all.
    if #heads < portion then
      return cut, false
    end
    portion = FURTHER  -- some of it was dropped
  end
  return cut, redis.call('LLEN', list) > cut
end
-- Lanes take turns: one job from each, round after round, while there is room.  home: the zset that the lanes are in; own: its
-- limit, if that zset is a group.
local function take_turns(queue, room, home, own)
  if room <= 0 then
    return
  end
  local lanes = redis.call('ZRANGE', home, 0, room + 9)
  local open, before = {}, taken
  local share = math.ceil(room / math.max(1, #lanes))
  for i, lane in ipairs(lanes) do
    local list = named('lane', lane)
    local heads = redis.call('LRANGE', list, -share, -1)
    open[i] = { lane = lane, list = list, queue = queue, heads = heads, at = #heads, cut = 0,
      total = redis.call('LLEN', list), home = home, own = own }
    visited[#visited + 1] = open[i]
  end
  local moved = true
  while moved do
    moved = false
    for _, lane in ipairs(open) do
      if not lane.over then
        local gone, full = false, nil
        if lane.at == 0 and lane.cut < lane.total and taken - before < room then
          lane.heads = redis.call('LRANGE', lane.list, -lane.cut - FURTHER, -lane.cut - 1)
          lane.at = #lane.heads
        end
        if lane.at > 0 then
          gone, full = look(lane.heads[lane.at], queue, true, room - (taken - before))
        end
        if gone then
          lane.at, lane.cut, moved = lane.at - 1, lane.cut + 1, true
        elseif full and own and full.name == own.name then
          return
        elseif full then
          lane.over, lane.full = true, full
        elseif lane.at > 0 then
          return
        else
          lane.over = true
        end
      end
    end
  end
end
-- take_lanes: takes jobs from lanes, first from those that waited for a limit and were offered a place.
local function take_lanes(queue, room)
  local before = taken
  for n, name in ipairs(redis.call('ZRANGE', named('open', queue), 0, GROUPS - 1)) do
    local about = redis.call('HMGET', named('about', name), 'kind', 'number', 'ms', 'base')
    if room <= taken - before and n > 1 then
      break
    end
    local own = { name = name, kind = about[1] or 'concurrency', most = number_of(about[2], 1), ms = number_of(about[3]),
      base_length = #(about[4] or name) }
    note_limits({ own })
    local had = taken
    if not is_full_now(own) then
      take_turns(queue, room - (taken - before), group_of(name, queue), own)
    end
    groups[#groups + 1] = { limit = own, queue = queue, took = taken > had }
  end
  take_turns(queue, room - (taken - before), named('lanes', queue), nil)
end
