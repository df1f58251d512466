GREETING = "from code"
