  const i32 t = thread_id();
  i32 x = 0;
  i32 y = 1;
  // matmul.py:3
  #pragma unroll 1
  for (i32 i = 0; i < t; ++i) {
    const i32 x_next = y;
    y = x + y;
    x = x_next;
  }
  #pragma unroll 4
  for (i32 i = 0; i < t; i += 2) {
    const i32 x_next = y;
    y = x;
    x = x_next;
  }
  i32 total = 0;
  const i32 kind = t % 3;
  if (kind == 0) {
    total = total + x;
  } else if (kind == 1) {
    total = y;
  } else {
    total = -7;
  }
  i32 held = t + 1;
  i32 steps = 0;
  while (held > 1) {
    i32 following;
    if ((held & 1) == 0) {
      following = held >> 1;
    } else {
      following = held * 3 + 1;
    }
    held = following;
    steps = steps + 1;
  }
  i32 left = 8;
  bool more = true;
  while (more) {
    const i32 at = shuffle(left, 0);
    more = at > 0;
    if (more) {
      left = left - 3;
    }
  }
  out[t] = total * 1000 + (steps + left);
