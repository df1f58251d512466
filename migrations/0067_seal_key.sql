-- What is too short to be sealed has no key, instead of an error for whoever writes it.

create or replace function seal_key(sealed bytea) returns bigint language sql immutable strict parallel safe
    return case when length(sealed) >= 5 then
        get_byte(sealed, 1)::bigint * 16777216 + get_byte(sealed, 2) * 65536 + get_byte(sealed, 3) * 256
        + get_byte(sealed, 4)
    end;
