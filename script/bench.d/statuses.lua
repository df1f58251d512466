-- Asks for the status of one instance after the other, of those whose services answer.
local number = 0

request = function()
    number = number % 19 + 1
    return wrk.format("GET", "/services/instances/bench-" .. number .. "/status")
end
