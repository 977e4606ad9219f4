import { Controller, Get, Query } from '@nestjs/common';
import { GreetingService } from './greeting.service';

@Controller()
export class GreetingController {
  constructor(private readonly greetings: GreetingService) {}

  @Get()
  greet(@Query('name') name = 'world'): { message: string } {
    return { message: this.greetings.greet(name) };
  }
}
