<?php

declare(strict_types=1);

namespace Example\Greeting;

final class Greeter
{
    public function greet(string $name): string
    {
        return "hello, $name";
    }
}
