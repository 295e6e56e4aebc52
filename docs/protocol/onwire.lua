-- Wireshark dissector of onwire's notification protocol (UDP port 7118).
--
--   wireshark -X lua_script:onwire.lua
--   tshark -X lua_script:onwire.lua -r capture.pcap -V
--
-- It shows the envelope, hands the messages to Wireshark's own netlink dissector, and shows the attributes, which that
-- one cannot know. It does not check the authentication.

local port_of_publisher = 7118
local family = 0x776f

local commands = {
  [1] = "FLOW", [2] = "BLOCK", [3] = "STATE", [4] = "VIOLATION", [5] = "HEARTBEAT", [6] = "BARRIER",
  [7] = "CHALLENGE", [8] = "SUBSCRIBE", [9] = "UNSUBSCRIBE", [10] = "GET_FLOWS", [11] = "REGISTER", [12] = "FLUSH",
}
local types = { [2] = "ERROR", [3] = "DONE", [family] = "onwire" }
local events = { [1] = "new", [2] = "protected", [3] = "gone" }
local levels = { [1] = "queued", [2] = "on_wire", [3] = "decoded", [4] = "acked", [5] = "early" }
local origins = { [0] = "start", [1] = "middle" }
local gone_reasons = { [1] = "closed", [2] = "idle", [3] = "evicted", [4] = "replaced" }
local states = { [1] = "up", [2] = "degraded", [3] = "down", [4] = "draining" }
local state_reasons = {
  [0] = "none", [1] = "no reports", [2] = "violation", [3] = "send errors", [4] = "no timestamps", [5] = "no session",
  [6] = "administrator", [7] = "target not reachable", [8] = "model violated", [9] = "bypass",
}

local key_table = {
  [1] = { "protocol", "u8" },
  [2] = { "source", "address" },
  [3] = { "destination", "address" },
  [4] = { "source-port", "port" },
  [5] = { "destination-port", "port" },
}
local peer_table = {
  [1] = { "id", "u32" },
  [2] = { "name", "string" },
  [3] = { "state", "u8", states },
  [4] = { "reason", "u8", state_reasons },
}
local range_table = {
  [1] = { "key", "nest", key_table },
  [2] = { "instance", "u64" },
  [3] = { "start", "u64" },
  [4] = { "end", "u64" },
}
local message_table = {
  [1] = { "key", "nest", key_table },
  [2] = { "instance", "u64" },
  [3] = { "event", "u8", events },
  [4] = { "level", "u8", levels },
  [5] = { "queued", "u64" },
  [6] = { "on-wire", "u64" },
  [7] = { "decoded", "u64" },
  [8] = { "acked", "u64" },
  [9] = { "origin", "u8", origins },
  [10] = { "origin-seq", "u32" },
  [11] = { "cookie", "u64" },
  [12] = { "k", "u16" },
  [13] = { "m", "u16" },
  [14] = { "peer-id", "u32" },
  [15] = { "gone-reason", "u8", gone_reasons },
  [16] = { "lane", "u8" },
  [17] = { "profile", "u8" },
  [18] = { "sbn", "u64" },
  [19] = { "range", "nest", range_table },
  [20] = { "peer", "nest", peer_table },
  [21] = { "lease", "u32" },
  [22] = { "groups", "u32" },
  [23] = { "token", "binary" },
  [24] = { "since", "u64" },
  [25] = { "version", "u64" },
  [26] = { "count", "u32" },
  [27] = { "notified", "u32" },
  [28] = { "violations", "u64" },
  [29] = { "packets", "u64" },
  [30] = { "heartbeat", "u32" },
  [31] = { "head", "u64" },
  [32] = { "violated", "u64" },
  [33] = { "early", "u64" },
  [34] = { "survives-burst", "u32" },
}
local error_table = { [1] = { "text", "string" }, [2] = { "offset", "u32" } }

local onwire = Proto("onwire", "onwire notification")
local f = {
  version = ProtoField.uint8("onwire.version", "Version"),
  from_publisher = ProtoField.bool("onwire.from_publisher", "From the publisher", 8, nil, 1),
  key = ProtoField.uint16("onwire.key", "Key id"),
  sender = ProtoField.uint64("onwire.sender", "Sender epoch", base.HEX),
  receiver = ProtoField.uint64("onwire.receiver", "Receiver epoch", base.HEX),
  counter = ProtoField.uint64("onwire.counter", "Counter"),
  tag = ProtoField.bytes("onwire.tag", "Authentication"),
  command = ProtoField.uint8("onwire.command", "Command", base.DEC, commands),
  errno = ProtoField.int32("onwire.errno", "Error"),
  attribute = ProtoField.bytes("onwire.attribute", "Attribute"),
}
local by_name = {}
local kinds = { u8 = ProtoField.uint8, u16 = ProtoField.uint16, u32 = ProtoField.uint32, u64 = ProtoField.uint64 }
local function declare(prefix, fields)
  for _, row in pairs(fields) do
    local name, kind, more = row[1], row[2], row[3]
    local abbreviation = prefix .. "." .. name:gsub("-", "_")
    if kind == "nest" then
      f[abbreviation] = ProtoField.none(abbreviation, name)
      declare(abbreviation, more)
    elseif kinds[kind] then
      f[abbreviation] = kinds[kind](abbreviation, name, base.DEC, more)
    elseif kind == "port" then
      f[abbreviation] = ProtoField.uint16(abbreviation, name)
    elseif kind == "string" then
      f[abbreviation] = ProtoField.string(abbreviation, name)
    elseif kind == "address" then
      f[abbreviation .. "_v4"] = ProtoField.ipv4(abbreviation .. "_v4", name)
      f[abbreviation .. "_v6"] = ProtoField.ipv6(abbreviation .. "_v6", name)
    else
      f[abbreviation] = ProtoField.bytes(abbreviation, name)
    end
  end
end
declare("onwire", message_table)
declare("onwire.error", error_table)
for _, field in pairs(f) do
  by_name[#by_name + 1] = field
end
onwire.fields = by_name

local function attributes(bytes, tree, prefix, fields)
  local at = 0
  while bytes:len() - at >= 4 do
    local len = bytes(at, 2):le_uint()
    local kind = bit.band(bytes(at + 2, 2):le_uint(), 0x3fff)
    if len < 4 or at + len > bytes:len() then
      tree:add_expert_info(PI_MALFORMED, PI_ERROR, "attribute cut short")
      return
    end
    local whole = bytes(at, len)
    local row = fields[kind]
    if row == nil or len == 4 then
      tree:add(f.attribute, whole)
    else
      local value = bytes(at + 4, len - 4)
      local abbreviation = prefix .. "." .. row[1]:gsub("-", "_")
      if row[2] == "nest" then
        attributes(value, tree:add(f[abbreviation], whole), abbreviation, row[3])
      elseif row[2] == "address" then
        tree:add(f[abbreviation .. (len == 8 and "_v4" or "_v6")], value)
      elseif kinds[row[2]] then
        tree:add_le(f[abbreviation], value)
      else
        tree:add(f[abbreviation], value)
      end
    end
    at = at + math.floor((len + 3) / 4) * 4
  end
end

-- Wireshark's netlink dissector wants the pseudo-header of a netlink capture: kernel to user, ARPHRD_NETLINK, and the
-- protocol NETLINK_GENERIC.
local cooked = ByteArray.new("0004 0338 0000 0000 0000 0000 0000 0010")

local function message(bytes, pinfo, tree)
  local kind = bytes(4, 2):le_uint()
  local body = bytes(16)
  local sub = tree:add(onwire, bytes, types[kind] or "message")
  if kind == family and body:len() >= 4 then
    local command = body(0, 1):uint()
    sub:set_text(commands[command] or "unknown command")
    sub:add(f.command, body(0, 1))
    if body:len() > 4 then
      attributes(body(4), sub, "onwire", message_table)
    end
    return commands[command] or "?"
  elseif kind == 2 and body:len() >= 20 then
    sub:add_le(f.errno, body(0, 4))
    if body:len() > 20 then
      attributes(body(20), sub, "onwire.error", error_table)
    end
    return body(0, 4):le_int() == 0 and "ACK" or "ERROR"
  elseif kind == 3 and body:len() > 4 then
    attributes(body(4), sub, "onwire", message_table)
    return "DONE"
  end
  return "?"
end

function onwire.dissector(tvb, pinfo, tree)
  if tvb:len() < 48 or tvb(0, 4):string() ~= "OWNT" then
    return 0
  end
  pinfo.cols.protocol = "ONWIRE"
  local envelope = tree:add(onwire, tvb(0, 48), "onwire envelope")
  envelope:add(f.version, tvb(4, 1))
  envelope:add(f.from_publisher, tvb(5, 1))
  envelope:add_le(f.key, tvb(6, 2))
  envelope:add_le(f.sender, tvb(8, 8))
  envelope:add_le(f.receiver, tvb(16, 8))
  envelope:add_le(f.counter, tvb(24, 8))
  envelope:add(f.tag, tvb(32, 16))

  local names = {}
  local at = 48
  while tvb:len() - at >= 16 do
    local len = tvb(at, 4):le_uint()
    if len < 16 or at + len > tvb:len() then
      envelope:add_expert_info(PI_MALFORMED, PI_ERROR, "message cut short")
      break
    end
    names[#names + 1] = message(tvb(at, len), pinfo, tree)
    at = at + math.floor((len + 3) / 4) * 4
  end

  if tvb:len() > 48 then
    local bytes = ByteArray.new(cooked:tohex())
    bytes:append(tvb(48):bytes())
    Dissector.get("netlink"):call(bytes:tvb("netlink"), pinfo, tree)
  end
  pinfo.cols.protocol = "ONWIRE"
  pinfo.cols.info = table.concat(names, ", ")
  return tvb:len()
end

DissectorTable.get("udp.port"):add(port_of_publisher, onwire)
